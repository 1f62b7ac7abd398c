"""`python -m visualquality`, for launchers such as torchrun and accelerate."""

from .cli import app

app()
