"""``python -m training`` is ``ferry-train``; torchrun starts it so: ``torchrun -m training fit RECIPE``."""

from training.cli import main

main()
