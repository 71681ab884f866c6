"""From logits to a decision: calibration, prediction sets, outliers, referral."""
