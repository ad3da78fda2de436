"""Where a source is (a file, a folder, a dataset on the Hub) and which of its files hold a split."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from dataset_tools.errors import UsageError

ENDINGS = (".parquet", ".jsonl", ".json")
NOT_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "aspo.json", "config.json"}
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_WORDS = re.compile(r"[A-Za-z]+")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass
class Located:
    """The data files of a source, each with the name its rows are referred to by, and where images may be."""

    files: list[tuple[Path, str]]
    folder: Path
    names: list[str]
    """All files there, data or not, relative to the folder."""
    location: str
    revision: str | None = None
    license: str | None = None
    hub: bool = False
    roots: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)


def locate(source: str, revision: str | None, split: str) -> Located:
    """Find a source's files; those of a Hub dataset are downloaded to the Hub's cache."""
    path = Path(source).expanduser()
    if path.exists():
        if revision:
            raise UsageError(f"--revision is for a dataset on the Hub, but {source} is on this disk.")
        return _local(path, split)
    if _HUB_ID.fullmatch(source):
        return _from_hub(source, revision, split)
    raise UsageError(f"{source} does not exist, and it is not a Hub id of the form owner/name.")


def _local(path: Path, split: str) -> Located:
    path = path.resolve()
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise UsageError(f"{path} is not one of {', '.join(ENDINGS)}.")
        names = [item.name for item in sorted(path.parent.iterdir()) if item.is_file()]
        return Located([(path, path.name)], path.parent, names, path.name)
    names = sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file())
    chosen = choose(names, split, str(path))
    return Located([(path / name, name) for name in chosen], path, names, path.name)


def _from_hub(repo: str, revision: str | None, split: str) -> Located:
    from huggingface_hub import HfApi

    from dataset_tools.share.hub import network

    with network(f"the Hub cannot be reached to look up {repo}"):
        info = HfApi().dataset_info(repo, revision=revision)
    names = sorted(item.rfilename for item in info.siblings or [])
    chosen = choose(names, split, repo)
    folder = download(repo, info.sha, chosen)
    card = info.card_data.to_dict() if info.card_data else {}
    licence = card.get("license")
    return Located(
        files=[(folder / name, name) for name in chosen],
        folder=folder,
        names=names,
        location=repo,
        revision=info.sha,
        license=", ".join(licence) if isinstance(licence, list) else licence,
        hub=True,
    )


def download(repo: str, revision: str | None, names: list[str]) -> Path:
    """Fetch files of a Hub dataset at one commit; what is in the cache is not fetched again."""
    from huggingface_hub import snapshot_download

    from dataset_tools.share.hub import network

    patterns = [glob.escape(name) for name in names]
    with network("the download was cut off. Run the same command again: it goes on where it was"):
        folder = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)
    return Path(folder)


def find_images(located: Located, image_roots: list[Path], archives: tuple[str, ...]) -> None:
    """Set where images given by path are looked for: `--image-root` first, then beside the data."""
    for root in image_roots:
        if root.is_dir():
            located.roots.append(root)
        elif root.is_file() and root.suffix.lower() == ".zip":
            located.archives.append(root)
        else:
            raise UsageError(f"--image-root {root} is neither a folder nor a zip file.")
    wanted = [name for name in located.names if any(fnmatch(Path(name).name, each) for each in archives)]
    if wanted and located.hub and not image_roots:
        download(located.location, located.revision, wanted)
    if not located.hub:
        located.roots.append(located.folder)
    located.archives += [located.folder / name for name in wanted if (located.folder / name).is_file()]


def split_of(name: str) -> str | None:
    """The split that a file's path names, if any."""
    for word in _WORDS.findall(name.rpartition("/")[2]) + _WORDS.findall(name.rpartition("/")[0]):
        if word.lower() in SPLITS:
            return SPLITS[word.lower()]
    return None


def choose(names: list[str], split: str, where: str) -> list[str]:
    """The data files of a split among all files of a source."""
    for ending in ENDINGS:
        data = [name for name in names if name.endswith(ending) and _is_data(name)]
        if data:
            break
    else:
        raise UsageError(f"{where} holds no {', '.join(ENDINGS)} file.")
    literal = [name for name in data if re.search(rf"(?<![a-z0-9]){re.escape(split)}(?![a-z])", name, re.I)]
    if literal:
        return literal
    found = {name: split_of(name) for name in data}
    canonical = SPLITS.get(split, split)
    matching = [name for name in data if found[name] == canonical]
    if not matching and canonical == "train" and not any(found.values()):
        return data
    if not matching:
        splits = sorted({name or "train" for name in found.values()})
        raise UsageError(f"{where} has no split {split}: its files are of {', '.join(splits)}.")
    return matching


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name not in NOT_DATA and not any(part.startswith(".") for part in path.parts)
