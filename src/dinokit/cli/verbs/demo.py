"""`dinokit demo`: photos in, one page out."""

from pathlib import Path

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Out, Pixels
from dinokit.cli.verb import LOOK, Verb
from dinokit.report import PICTURE_SIZE

VERB = Verb(
    "demo",
    LOOK,
    0,
    "Make a page that shows what the network sees in a dozen photos, or in yours.",
    ("dinokit demo", "dinokit demo holiday-photos/ --out holiday"),
    "One file, OUT/index.html: colours of the features, similar places under the pointer, foreground, "
    "photos that are alike, corresponding points in two views. It needs no network.",
)


def demo(
    photos: str | None = None,
    /,
    *,
    out: Out = Path("demo"),
    model: Model = BUNDLED,
    size: Pixels = PICTURE_SIZE,
    opening: Opening = AUTO,
) -> None:
    """Make a page that shows what the network sees in a dozen photos, or in yours.

    Parameters
    ----------
    photos
        A folder, a picture, a pattern or tar shards; without it, the dozen photos of the package.
    out
        Folder for the page; it is made if need be.
    size
        Short side in pixels at which the photos are read; larger shows finer maps and takes longer.
    """
    import time

    from dinokit.checkpoints.folders import check_folder
    from dinokit.cli.output import put, say, track, warn
    from dinokit.report import demo as work
    from dinokit.report.demo_page import write_demo_page

    started = time.perf_counter()
    chosen, remark = work.choose_photos(photos)
    if remark:
        say(remark)
    check_folder(out)
    backbone = opening.backbone(model)
    encoded = list(track(work.encode_photos(chosen, backbone, size, warn), len(chosen), "looking at photos"))
    about = work.describe(encoded, model, backbone.patch_size, size, time.perf_counter() - started)
    lead = work.upbringing(model, backbone.info)
    page = write_demo_page(encoded, work.choose_pair(encoded), lead, about, out)
    put(f"Done in {time.perf_counter() - started:.0f} s. Open {page} in a browser.")
