"""How good depth is: the figures of Eigen et al. (NeurIPS 2014), per picture, then their mean over the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from dinokit.heads.depth_bins import Range

Values = NDArray[np.floating]
_DECIMALS = 4


@dataclass(frozen=True)
class DepthScore:
    """Errors in metres or as shares; of several pictures, the mean of each."""

    rmse: float
    """Root of the mean squared error, m."""
    abs_rel: float
    """Mean error as a share of the true depth."""
    delta1: float
    """Share of the pixels whose depth is within a factor of 1.25 of the true one, between 0 and 1."""
    delta2: float
    """Within 1.25 squared."""
    delta3: float
    """Within 1.25 to the third."""
    sq_rel: float
    """Mean squared error over the true depth, m."""
    rmse_log: float
    """Root of the mean squared error of natural logarithms."""
    log_10: float
    """Mean error of logarithms to base 10."""
    silog: float
    """Deviation of the logarithms' error, times 100: what no scale can mend."""
    mae: float
    """Mean error, m."""
    pictures: int = 1

    def to_row(self) -> dict[str, float]:
        """The figures, rounded for tables."""
        return {name: round(value, _DECIMALS) for name, value in vars(self).items()}

    def describe(self) -> str:
        """A line for people."""
        figures = f"RMSE {self.rmse:.3f} m, AbsRel {self.abs_rel:.3f}, delta 1 {100 * self.delta1:.1f} %"
        return f"{figures} (mean of {self.pictures} pictures)"

    @staticmethod
    def mean(scores: Sequence[DepthScore]) -> DepthScore:
        """The mean over pictures."""
        names = [field.name for field in fields(DepthScore) if field.name != "pictures"]
        means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in names}
        return DepthScore(**means, pictures=sum(score.pictures for score in scores))


def score_depth(predicted: Values, true: Values, limits: Range, align: bool = False) -> DepthScore:
    """Compare depths in metres [H, W] where the true one lies between the limits; predictions are cut to it.

    align: first bring the prediction to the truth by the scale and shift that fit best. At least one pixel must be
    within the range.
    """
    low, high = limits
    known = (true > low) & (true < high)
    found, wanted = (values[known].astype(np.float64) for values in (predicted, true))
    if align:
        scale, shift = scale_and_shift(found, wanted)
        found = found * scale + shift
    found = found.clip(low, high)
    error, ratio, logs = found - wanted, found / wanted, np.log(found) - np.log(wanted)
    factor = np.maximum(ratio, 1 / ratio)
    return DepthScore(
        rmse=float(np.sqrt((error**2).mean())),
        abs_rel=float((np.abs(error) / wanted).mean()),
        delta1=float((factor < 1.25).mean()),
        delta2=float((factor < 1.25**2).mean()),
        delta3=float((factor < 1.25**3).mean()),
        sq_rel=float((error**2 / wanted).mean()),
        rmse_log=float(np.sqrt((logs**2).mean())),
        log_10=float(np.abs(logs).mean() / np.log(10)),
        silog=float(100 * logs.std()),
        mae=float(np.abs(error).mean()),
    )


def scale_and_shift(found: Values, wanted: Values) -> tuple[float, float]:
    """Scale and shift by which depths [N] come nearest to the wanted ones, by least squares."""
    spread = found - found.mean()
    variance = float(spread @ spread)
    scale = float(spread @ (wanted - wanted.mean())) / variance if variance > 0 else 1.0
    return scale, float(wanted.mean() - scale * found.mean())
