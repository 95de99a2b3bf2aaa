"""Text to numbers without a vocabulary: each word's checksum is its number. Training and serving use the same."""

import re
import zlib

VOCABULARY = 4096
TOKENS_MAX = 128


def tokens_of(text: str) -> list[int]:
    """1 to VOCABULARY - 1 for each word, upper and lower case alike; 0 is left for padding."""
    words = re.findall(r"\w+", text.lower())
    return [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words[:TOKENS_MAX]]
