"""The forecaster as other libraries' models. Each module needs its library, and none the rest."""
