"""The catalogue: which models there are, what their files must hash to, and which profiles run them.

It is data (`catalogue.toml`), read once and checked whole: a profile cannot name a model that is
not there, and a file is either pulled (parts and hash) or brought by the user (hub), never neither.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ruvllm.errors import InvalidConfiguration, ModelUnavailable

ModelRole = Literal["generate", "embed"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class PackagePart:
    """A file inside a wheel: one part of a model's file, or all of it."""

    package: str
    version: str
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class HubFile:
    """Where a user finds a file that no package carries."""

    repository: str
    file: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: `parts` are concatenated in order; without parts the user brings it.

    `sha256` and `bytes` are None for files that users bring: the hash is recorded when added.
    """

    name: str
    bytes: int | None
    sha256: str | None
    parts: tuple[PackagePart, ...]
    hub: HubFile | None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model. `parameters`: values in all tensors of its file."""

    id: str
    role: ModelRole
    name: str
    architecture: str
    parameters: int
    quantisation: str
    context_tokens: int
    chat_template: str | None
    licence: str
    origin: str
    files: tuple[ModelFile, ...]

    @property
    def bytes(self) -> int | None:
        """Size of all files; None as long as a user's file decides it."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def pullable(self) -> bool:
        """Packages carry all its files."""
        return all(file.parts for file in self.files)

    def file(self, name: str) -> ModelFile:
        """Its file of that name. Raises ModelUnavailable."""
        for file in self.files:
            if file.name == name:
                return file
        known = ", ".join(file.name for file in self.files)
        raise ModelUnavailable(f"model {self.id} has no file {name!r}", hint=f"Its files: {known}.")


@dataclass(frozen=True, slots=True)
class ProfileTier:
    """A place in a profile: tier name, model id, and what a token costs relative to other tiers."""

    tier: str
    model: str
    cost_per_token: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Models that run together; tiers from the smallest to the largest."""

    name: str
    embedder: str
    default_tier: str
    tiers: tuple[ProfileTier, ...]

    def tier(self, name: str) -> ProfileTier:
        """The tier of that name. Raises ModelUnavailable."""
        for tier in self.tiers:
            if tier.tier == name:
                return tier
        known = ", ".join(tier.tier for tier in self.tiers)
        raise ModelUnavailable(f"profile {self.name} has no tier {name!r}", hint=f"Its tiers: {known}.")

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of every model it needs, the embedder first."""
        return (self.embedder, *(tier.model for tier in self.tiers))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models by id, all profiles by name."""

    models: Mapping[str, ModelCard]
    profiles: Mapping[str, Profile]
    default_profile: str

    def model(self, model: str) -> ModelCard:
        """The card of a model id. Raises ModelUnavailable."""
        card = self.models.get(model)
        if card is None:
            raise ModelUnavailable(
                f"model {model!r} is not in the catalogue", hint=f"It has: {', '.join(self.models)}."
            )
        return card

    def profile(self, name: str | None = None) -> Profile:
        """The profile of that name, or the default one. Raises ModelUnavailable."""
        profile = self.profiles.get(name or self.default_profile)
        if profile is None:
            raise ModelUnavailable(f"profile {name!r} is unknown", hint=f"Use one of: {', '.join(self.profiles)}.")
        return profile


def load_catalogue(text: str) -> Catalogue:
    """Read and check a catalogue in TOML. Raises InvalidConfiguration naming the entry that is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfiguration(f"the model catalogue is not TOML: {error}") from error
    models = {name: _card(name, entry) for name, entry in raw.get("models", {}).items()}
    profiles = {name: _profile(name, entry, models) for name, entry in raw.get("profiles", {}).items()}
    defaults = [name for name, entry in raw.get("profiles", {}).items() if entry.get("default")]
    if len(defaults) != 1:
        raise InvalidConfiguration(f"one profile of the catalogue is the default, not {len(defaults)}")
    return Catalogue(models=models, profiles=profiles, default_profile=defaults[0])


def _card(name: str, entry: dict[str, Any]) -> ModelCard:
    where = f"model {name!r} of the catalogue"
    _check(_PLAIN_NAME.fullmatch(name) is not None, f"{where}: the id is a folder name")
    try:
        card = ModelCard(
            id=name,
            role=entry["role"],
            name=entry["name"],
            architecture=entry["architecture"],
            parameters=int(entry["parameters"]),
            quantisation=entry["quantisation"],
            context_tokens=int(entry["context_tokens"]),
            chat_template=entry.get("chat_template"),
            licence=entry["licence"],
            origin=entry["origin"],
            files=tuple(_file(where, file) for file in entry["files"]),
        )
    except (KeyError, TypeError) as error:
        raise InvalidConfiguration(f"{where} lacks a key or has one too many: {error}") from error
    _check(card.role in ("generate", "embed"), f"{where}: role {card.role!r} is not generate or embed")
    _check(card.role == "embed" or card.chat_template is not None, f"{where} lacks a chat template")
    _check(len(card.files) > 0, f"{where} has no file")
    return card


def _file(where: str, entry: dict[str, Any]) -> ModelFile:
    file = ModelFile(
        name=entry["name"],
        bytes=entry.get("bytes"),
        sha256=entry.get("sha256"),
        parts=tuple(PackagePart(**part) for part in entry.get("parts", ())),
        hub=HubFile(**entry["hub"]) if "hub" in entry else None,
    )
    where = f"{where}, file {file.name!r}"
    _check(_PLAIN_NAME.fullmatch(file.name) is not None, f"{where}: a plain file name is needed")
    _check(bool(file.parts) != (file.hub is not None), f"{where} has either parts or hub")
    if file.parts:
        _check(_SHA256.fullmatch(file.sha256 or "") is not None, f"{where} lacks a sha256 of 64 hex digits")
        total = sum(part.bytes for part in file.parts)
        _check(file.bytes == total, f"{where}: its parts have {total} bytes, not {file.bytes}")
    return file


def _profile(name: str, entry: dict[str, Any], models: Mapping[str, ModelCard]) -> Profile:
    where = f"profile {name!r} of the catalogue"
    try:
        profile = Profile(
            name=name,
            embedder=entry["embedder"],
            default_tier=entry["default_tier"],
            tiers=tuple(ProfileTier(**tier) for tier in entry["tiers"]),
        )
    except (KeyError, TypeError) as error:
        raise InvalidConfiguration(f"{where} lacks a key or has one too many: {error}") from error
    unknown = [model for model in profile.models if model not in models]
    _check(not unknown, f"{where} names models that are not there: {', '.join(unknown)}")
    names = [tier.tier for tier in profile.tiers]
    _check(len(set(names)) == len(names), f"{where} names a tier twice")
    _check(profile.default_tier in names, f"{where}: default tier {profile.default_tier!r} is none of {names}")
    sizes = [models[tier.model].parameters for tier in profile.tiers]
    _check(sizes == sorted(sizes), f"{where}: tiers stand from the smallest to the largest")
    return profile


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InvalidConfiguration(otherwise)
