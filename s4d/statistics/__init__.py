"""How sure a score is: bootstrap intervals, paired tests of two classifiers, calibration.

Everything takes arrays and an explicit seed; the same arguments give the same numbers.
"""

from s4d.statistics.bootstrap import bootstrap_interval
from s4d.statistics.calibration import CalibrationBins, brier_score, calibration_bins, expected_calibration_error
from s4d.statistics.hierarchical import hierarchical_bootstrap
from s4d.statistics.interval import Interval
from s4d.statistics.mcnemar import McNemar, mcnemar
from s4d.statistics.score_intervals import ScoreIntervals, paired_bootstrap, score_intervals, uar

__all__ = [
    "CalibrationBins",
    "Interval",
    "McNemar",
    "ScoreIntervals",
    "bootstrap_interval",
    "brier_score",
    "calibration_bins",
    "expected_calibration_error",
    "hierarchical_bootstrap",
    "mcnemar",
    "paired_bootstrap",
    "score_intervals",
    "uar",
]
