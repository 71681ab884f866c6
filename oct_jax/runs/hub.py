"""Model files on the Hugging Face hub: `hf://owner/name`, or `hf://owner/name@revision`."""

from __future__ import annotations

import re
from pathlib import Path

from oct_jax.cache import cache_folder
from oct_jax.types import UserError

PREFIX = "hf://"
FILE = "model.safetensors"
"""The name of the model file in a repository of the hub."""
INSTALL = 'pip install "oct-jax[hub]"'

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch_model(address: str, *, endpoint: str | None = None) -> Path:
    """The model file of a repository, in the cache; downloaded where it is not there yet.

    The hub names a file by its SHA-256, and the file holds one of its content, which is compared
    when it is read.

    Args:
      address: `hf://owner/name`, or `hf://owner/name@revision` with a branch, tag or commit.
      endpoint: of the hub; None for the one that `HF_ENDPOINT` names, else huggingface.co.

    Raises:
      UserError: not such an address, the extra is not installed, or there is no such file or no
        network.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address}: write hf://owner/name, or hf://owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{address}: needs the package huggingface-hub: {INSTALL}") from error
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(
            match[1],
            FILE,
            revision=match[2],
            cache_dir=cache_folder() / "hub",
            endpoint=endpoint,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{address}: {FILE} cannot be fetched ({reason})") from error
    return Path(path)
