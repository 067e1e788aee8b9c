"""Writes the first N pictures of tar shards into one shard: the small set that a person has.

python experiments/small-data/subset.py 2000 small.tar photos-0000.tar photos-0001.tar
"""

import io
import sys
import tarfile

from dinokit.data.opening import open_pictures


def extension(content: bytes) -> str:
    """Of the kinds that shards hold; the reader goes by the content anyway."""
    return ".png" if content.startswith(b"\x89PNG") else ".webp" if content[8:12] == b"WEBP" else ".jpg"


def main() -> None:
    """Count, target, sources."""
    count, target, *sources = sys.argv[1:]
    pictures = open_pictures(sources)
    if int(count) > len(pictures):
        sys.exit(f"error: {count} pictures are asked of {len(pictures)}: give fewer, or more shards")
    with tarfile.open(target, "w") as tar:
        for number in range(int(count)):
            content = pictures.read_bytes(number)
            member = tarfile.TarInfo(f"{number:06d}{extension(content)}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    print(f"{count} pictures in {target}")


if __name__ == "__main__":
    main()
