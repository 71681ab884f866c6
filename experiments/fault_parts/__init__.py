"""The parts of the fault campaign, `experiments/faults.py`: one module for each kind of fault."""
