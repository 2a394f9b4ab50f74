"""What a dataset was built from, to tell later whether a release is the same."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from massformer_jax.data_builders.mass13k.release_folder import FindPairs, Pair, find_pairs
from massformer_jax.data_builders.mass13k.report import DatasetError

SOURCES_FILE = "build_sources.json"
_NAMED = 3  # differences that an error names

# Of a photograph and its label map: bytes and CRC-32 of the one, then of the other (-1 for none).
Fingerprint = tuple[int, int, int, int]


def fingerprint(image: bytes, mask: bytes | None) -> Fingerprint:
    """Returns the fingerprint of a photograph and its label map, if it has one."""
    of_mask = (-1, -1) if mask is None else (len(mask), zlib.crc32(mask))
    return len(image), zlib.crc32(image), *of_mask


def write_sources(folder: Path, splits: Mapping[str, Mapping[str, Fingerprint]]) -> None:
    """Writes the fingerprints of a dataset, by split and by the name of the photograph."""
    lines = {split: dict(sorted(files.items())) for split, files in splits.items()}
    (folder / SOURCES_FILE).write_text(json.dumps(lines))


def check_same_source(version: Path, root: Path, find: FindPairs = find_pairs) -> None:
    """Checks that a dataset was built from the files of a release as they are now.

    Names and sizes are compared, and the contents of files that were touched after the build.

    Args:
        version: folder of a complete dataset.
        root: folder of the release.
        find: finds its files.

    Raises:
        DatasetError: it was built from other files, or this cannot be told.
    """
    anew = "pass --overwrite to build it anew, or another --data_dir"
    try:
        known = json.loads((version / SOURCES_FILE).read_bytes())
        built = (version / "dataset_info.json").stat().st_mtime
        pairs, _ = find(root)
        differences = list(_differences(known, pairs, built))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{version}: is there already, and {error.filename} is missing, which would tell "
            f"whether it was built from {root}; {anew}"
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{version}: is there already, and {SOURCES_FILE} there is damaged; {anew}"
        ) from error
    if differences:
        named = "; ".join(differences[:_NAMED])
        more = f"; and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
        raise DatasetError(
            f"{version}: is there already, and was built from other files than those of {root} "
            f"({named}{more}); {anew}"
        )


def _differences(
    known: Mapping[str, Mapping[str, list[int]]], found: Mapping[str, list[Pair]], built: float
) -> Iterator[str]:
    """Yields how the files of a release differ from those that a dataset was built from.

    Args:
        known: the fingerprints of the dataset.
        found: the files of the release.
        built: when the dataset was finished, in seconds.
    """
    for split in dict.fromkeys([*known, *found]):
        before = known.get(split, {})
        now = {pair.file_name: pair for pair in found.get(split, [])}
        for name in sorted(before.keys() - now.keys()):
            yield f"{split} has no {name} now"
        for name in sorted(now.keys() - before.keys()):
            yield f"{split} had no {name}"
        for name in sorted(now.keys() & before.keys()):
            pair, (image_size, image_sum, mask_size, mask_sum) = now[name], before[name]
            if _differs([pair.image], image_size, image_sum, built):
                yield f"{pair.image} is another file"
            if not pair.masks and mask_size >= 0:
                yield f"{split} has no label map of {name} now"
            elif pair.masks and mask_size < 0:
                yield f"{split} had no label map of {name}"
            elif pair.masks and _differs(pair.masks, mask_size, mask_sum, built):
                yield f"{pair.mask} is another file"


def _differs(paths: Sequence[Path], size: int, checksum: int, built: float) -> bool:
    """Tells whether files have another content than they had, one after the other.

    They are read if they were touched since.
    """
    found = [os.stat(path) for path in paths]
    if sum(status.st_size for status in found) != size:
        return True
    touched = any(max(status.st_mtime, status.st_ctime) >= built for status in found)
    return touched and zlib.crc32(b"".join(path.read_bytes() for path in paths)) != checksum
