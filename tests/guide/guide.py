"""The guide's snippets: taken from its code blocks, Paceline's name put in, missing imports put before them.

Nothing else is changed. The digests are those of the blocks as the guide has them, with its own product's name.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_PAGE = Path(__file__).with_name("code_blocks.rst")
_BLOCK = re.compile(r"^( *)\.\. code-block:: python\n((?:\1 +:.*\n)*)((?:\1 +.*\n|\n)+)", re.MULTILINE)
_CAPTION = re.compile(r":caption: `(.*)`")

# In the order of the guide: the snippet's name here, the start of its SHA-256, and the imports that it leaves out.
# my_models is the user's own module; `model` in the line about batching is a model that the reader has.
_SNIPPETS = (
    ("cifar", "6aa7b4c7ffec56af", ()),
    ("two_tensors", "919f180cdc04375d", ("import paceline",)),
    ("external_modules", "6363c4aa5f01419e", ("import paceline",)),
    ("adaptive_batching", "01ef707a705ef4eb", ("import paceline", "from my_models import model")),
    ("service", "fa74b93e03365f97", ("import paceline", "from paceline.io import JSON, JSONSerializable")),
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """One code block. `caption` is the file that the guide says it is, empty where it says none."""

    caption: str
    missing_imports: tuple[str, ...]
    block: str  # as the guide has it
    digest: str  # that the block must have

    @property
    def code(self) -> str:
        """The block with Paceline's name."""
        return self.block.replace("bentoml", "paceline")

    def is_unchanged(self) -> bool:
        return hashlib.sha256(self.block.encode()).hexdigest().startswith(self.digest)

    def write_to(self, folder: Path) -> Path:
        """The snippet as a file of its name that runs."""
        path = folder / (self.caption or "train.py")
        path.write_text("".join(f"{line}\n" for line in self.missing_imports) + self.code)
        return path


def _read() -> dict[str, Snippet]:
    blocks = _BLOCK.findall(_PAGE.read_text())
    snippets = {}
    for (name, digest, imports), (_, options, block) in zip(_SNIPPETS, blocks, strict=True):
        caption = _CAPTION.search(options)
        code = textwrap.dedent(block).strip("\n") + "\n"
        snippets[name] = Snippet(caption[1] if caption else "", imports, code, digest)
    return snippets


SNIPPETS = _read()
