"""Settings that make a model better, searched for by Optuna."""
