"""Weights by name: `hf://OWNER/NAME[@REVISION][/FOLDER]`, on the Hub of Hugging Face.

The library `huggingface_hub` downloads and keeps files, and uploads them. It reads where the Hub is
from HF_ENDPOINT, whose rights it has from HF_TOKEN, where files are kept from HF_HOME, and whether
it may use the network from HF_HUB_OFFLINE. Only users of such names need it.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from massformer_jax.errors import InputError
from massformer_jax.models.exchange import FILES

_SCHEME = "hf://"
_FORM = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FOLDER"
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_NAME = re.compile(
    rf"hf://(?P<repository>{_PART}/{_PART})(?:@(?P<revision>refs/pr/\d+|\w[\w.-]*))?"
    rf"(?P<path>(?:/\w[\w.-]*)*)/?",
    re.ASCII,
)
_OTHER_KINDS = ("models", "datasets", "spaces", "buckets")  # no names of owners


class HubName(NamedTuple):
    """What a name says.

    Attributes:
        repository: OWNER/NAME.
        revision: a branch, a tag, a commit, or refs/pr/N; None for the newest.
        path: of a folder, or of a file, in the repository; "" for all of it.
    """

    repository: str
    revision: str | None
    path: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{_SCHEME}{self.repository}{revision}" + (f"/{self.path}" if self.path else "")


def is_hub_name(path: str | os.PathLike) -> bool:
    """Tells whether this is, or is meant to be, a name of the Hub and no path."""
    # What `pathlib` makes of one is told apart, too, so that it can be refused.
    return os.fspath(path).startswith("hf:/")


def parse_name(text: str | os.PathLike) -> HubName:
    """Returns what a name says.

    Raises:
        InputError: it is none.
    """
    text = os.fspath(text)
    found = _NAME.fullmatch(text)
    if not found:
        raise InputError(f"{text!r} is no name of the Hub; write {_FORM}, as text")
    repository, revision, path = found.group("repository", "revision", "path")
    owner = repository.split("/")[0]
    if owner in _OTHER_KINDS:
        raise InputError(f"{text}: {owner} is no owner of weights; write {_FORM}")
    if len(repository) > 96 or re.search(r"--|\.\.|\.git$", repository) or ".." in (revision or ""):
        raise InputError(f"{text} cannot be a name of the Hub; write {_FORM}")
    return HubName(repository, revision, path.strip("/"))


def library() -> Any:
    """Returns the library; raises InputError, which says how to install it, if it is missing."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"hf:// needs a library ({error}); pip install 'massformer-jax[hub]'"
        ) from error
    return huggingface_hub


def local_folder(path: str | os.PathLike) -> str | os.PathLike:
    """Returns the folder of weights that a name stands for, downloaded; any other path as it is.

    The files `exchange.FILES` are downloaded and nothing else, both of one commit. What was
    downloaded before is not downloaded again.

    Raises:
        InputError: it cannot be downloaded; says why.
    """
    if not is_hub_name(path):
        return path
    name = parse_name(path)
    prefix = f"{name.path}/" if name.path else ""
    return _downloaded(name, [prefix + file for file in FILES]) / name.path


def local_file(path: str | os.PathLike, suffixes: Sequence[str]) -> str | os.PathLike:
    """Returns what a name stands for that ends in one of these suffixes: a downloaded file.

    Other names stand for a folder, see `local_folder`, and other paths are returned as they are.

    Raises:
        InputError: it cannot be downloaded; says why.
    """
    if not is_hub_name(path) or not parse_name(path).path.endswith(tuple(suffixes)):
        return local_folder(path)
    name = parse_name(path)
    return _downloaded(name, [name.path]) / name.path


def upload(folder: pathlib.Path, name: HubName, message: str) -> str:
    """Uploads the files of a folder in one commit; makes the repository if it is missing.

    Returns:
        The address of the commit.

    Raises:
        InputError: it cannot be uploaded; says why.
    """
    hub = library()
    try:
        api = hub.HfApi(library_name="massformer_jax")
        api.create_repo(name.repository, exist_ok=True)
        prefix = f"{name.path}/" if name.path else ""
        # `upload_folder` may make several commits.
        commit = api.create_commit(
            name.repository,
            [hub.CommitOperationAdd(prefix + path.name, path) for path in sorted(folder.iterdir())],
            commit_message=message,
            revision=name.revision,
        )
    except Exception as error:
        raise _input_error(name, error, "be uploaded") from error
    return commit.commit_url


def _downloaded(name: HubName, files: Sequence[str]) -> pathlib.Path:
    """Downloads files of a repository and returns the folder that stands for the repository."""
    hub = library()
    revision, folder = name.revision, pathlib.Path()
    for file in files:
        try:
            path = hub.hf_hub_download(
                name.repository, file, revision=revision, library_name="massformer_jax"
            )
        except Exception as error:
            raise _input_error(name, error, "be downloaded", file) from error
        # It lies in the folder of a commit, from which the other files are taken, too.
        folder = pathlib.Path(path).parents[file.count("/")]
        revision = folder.name
    return folder


def _input_error(name: HubName, error: Exception, what: str, file: str = "") -> Exception:
    """Returns the error to raise in the place of one of the library, or of the system."""
    if isinstance(error, OSError) and error.errno:
        return error  # of the disk
    return InputError(f"{name} cannot {what}: {_reason(name, error, file)}")


def _reason(name: HubName, error: Exception, file: str) -> str:
    """Returns in one line why the library failed with a file, if with one, and what to do."""
    from huggingface_hub import constants, errors

    # The library wraps what happened in its own errors, and those in others.
    chain = list(_chain(error))

    def happened(kind: type[Exception]) -> bool:
        return any(isinstance(part, kind) for part in chain)

    answers = [part for part in chain if isinstance(part, errors.HfHubHTTPError)]
    status = answers[0].response.status_code if answers else 0
    if happened(errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it was not downloaded before; unset it"
    if happened(errors.GatedRepoError):
        return "its owner has to grant access; ask on its page, and set HF_TOKEN to your token"
    if happened(errors.RevisionNotFoundError):
        return f"there is no revision {name.revision or 'main'}; name another one"
    if happened(errors.RemoteEntryNotFoundError):
        return f"it has no {file}; name a folder that massformer convert --push wrote, or a file"
    if happened(errors.RepositoryNotFoundError):
        return (
            f"{constants.ENDPOINT} has no such repository, or it is private; check the name, or "
            "set HF_TOKEN to a token that may read it"
        )
    if status in (401, 403):
        return (
            f"{constants.ENDPOINT} refuses the token, or it may not do this (status {status}); set "
            "HF_TOKEN to one that may"
        )
    last = " ".join(str((answers or chain)[-1]).split())[:200]
    if status:
        return f"{constants.ENDPOINT} answers with status {status}: {last}"
    if happened(OSError):
        return f"{constants.ENDPOINT} cannot be reached ({last}); try again later"
    return f"{type(chain[-1]).__name__}: {last}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
