"""A recipe that the cache has: whether text and tokenizer are still those that were read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from optbench.data.cache_errors import errors_of_cache
from optbench.data.corpus import DataError
from optbench.data.document_shards import MixtureManifest, open_mixture
from optbench.data.listed_files import refuse_other_contents
from optbench.data.mixture_recipe import MixtureRecipe, TextSource
from optbench.data.parts import list_parts, total_size
from optbench.data.retries import Patience
from optbench.data.shards import TOKENIZER_FILE, corpus_dir
from optbench.data.tokenizer import make_plain
from optbench.data.tokenizer_choice import TokenizerChoice, choose_tokenizer


def kept_mixture(
    recipe: MixtureRecipe, cache: Path, patience: Patience | None = None
) -> MixtureManifest | None:
    """What the cache has of a recipe; None if it is not prepared.

    Files are listed again: names and sizes must be those that were prepared. Only a file that was
    written again since is read, to compare its contents. Data sets of the hub are distinguished by
    their revision.

    Raises:
        DataError: it was prepared with another recipe, tokenizer or files, or is damaged.
    """
    choice = choose_tokenizer(recipe)
    final = corpus_dir(recipe.name, choice.vocab_size, cache)
    with errors_of_cache(cache):
        if not final.exists():
            return None
    return unchanged(final, recipe, choice, patience or Patience())


def identity(recipe: MixtureRecipe, choice: TokenizerChoice) -> str:
    """Stands for the recipe and the tokenizer's file."""
    return hashlib.sha256(f"{recipe.digest()} {choice.sha256}".encode()).hexdigest()


def unchanged(
    final: Path, recipe: MixtureRecipe, choice: TokenizerChoice, patience: Patience
) -> MixtureManifest:
    """The manifest of a finished corpus whose text and tokenizer are as they were.

    Raises:
        DataError: they are not, with what changed, or it is damaged.
    """
    manifest = open_mixture(final).manifest
    if manifest.recipe_sha256 != identity(recipe, choice):
        raise DataError(
            f"{final} was prepared with another recipe or tokenizer. Give this recipe another "
            f"`name`, or delete that folder and prepare it again."
        )
    if cut := make_plain(Tokenizer.from_file(str(final / TOKENIZER_FILE))):
        raise DataError(
            f"{final} was prepared by an earlier version with the {' and '.join(cut)} of its "
            f"tokenizer, so its documents are not whole. Delete that folder and prepare it again."
        )
    known = {entry.source: entry for entry in manifest.provenance}
    for source in (stream.source for stream in recipe.streams()):
        if _is_pinned(source, recipe.base):
            continue
        listing, before = list_parts(source, recipe.base, patience), known[source.name]
        if listing.digest() != before.files_sha256:
            raise DataError(
                f"The files of '{source.name}' changed since {final} was prepared: there were "
                f"{before.files} files of {before.files_bytes} bytes, there are "
                f"{len(listing.parts)} of {total_size(listing.parts)} (the names count too). "
                f"Restore them, give this recipe another `name`, or delete that folder and prepare "
                f"it again."
            )
        refuse_other_contents(final, listing, source.name)
    return manifest


def _is_pinned(source: TextSource, base: Path) -> bool:
    """Whether its text is that of a revision, and no folder of this machine."""
    return source.hub is not None and not (base / source.hub.dataset).is_dir()
