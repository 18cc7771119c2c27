"""The table of metrics, the estimators behind it, and the baselines."""
