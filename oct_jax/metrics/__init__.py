"""From predictions and truth to metrics with intervals over patients."""
