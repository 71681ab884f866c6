"""A volume in, one answer for its eye out.

    volume = open_volume("eye.vol")
    eye = predict_eye(classifier, volume)
    eye.label, eye.referral, eye.reason, eye.calibrated
    explain_eye(classifier, volume).telling          # heatmaps of the most telling B-scans

B-scans are read a few at a time, so that memory does not grow with a volume's length.
"""

from oct_jax.eye.explanation import PROFILE, TELLING, EyeExplanation, explain_eye
from oct_jax.eye.prediction import EyePrediction, fit_eyes, pool_eye, predict_eye

__all__ = [
    "PROFILE",
    "TELLING",
    "EyeExplanation",
    "EyePrediction",
    "explain_eye",
    "fit_eyes",
    "pool_eye",
    "predict_eye",
]
