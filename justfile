# Words reach the commands as they were typed, spaces and all.
set positional-arguments

# Recipes find the project's own virtual environment, whoever calls `just`.
export PATH := justfile_directory() / ".venv" / (if os_family() == "windows" { "Scripts;" } else { "bin:" }) + env("PATH")

# List the recipes.
default:
    @just --list

# The whole way on synthetic scans in minutes: train both stages, evaluate, explain, export.
[no-exit-message]
demo *settings:
    @python -m oct_jax.demo "$@"

# Train one stage: stage=frozen, then stage=finetune; `just train --help` lists the settings.
[no-exit-message]
train *settings:
    @python -m oct_jax.train "$@"

# Evaluate a run on scans that it was not trained on: `just evaluate run=... data=...`.
[no-exit-message]
evaluate *settings:
    @python -m oct_jax.evaluate "$@"

# Fit a run's probabilities and thresholds to scans of your own; the model is not changed.
[no-exit-message]
recalibrate *settings:
    @python -m oct_jax.evaluate recalibrate "$@"

# Adapt a model to a clinic by its scans without labels: `just adapt data=FOLDER out=mine.safetensors`.
[no-exit-message]
adapt *settings:
    @python -m oct_jax.evaluate adapt "$@"

# Compare two models, or CSVs of predictions, on the same scans: `just compare A B data=FOLDER`.
[no-exit-message]
compare *words:
    @python -m oct_jax.evaluate compare "$@"

# Train and test by a named protocol: `just benchmark protocol=by_patient data=... weights=...`.
[no-exit-message]
benchmark *settings:
    @python -m oct_jax.benchmark "$@"

# Have scans changed since calibration? `just monitor data=FOLDER`; exit code 1 is an alarm.
[no-exit-message]
monitor *settings:
    @python -m oct_jax.evaluate monitor "$@"

# Fill reviewers' checklists, a model card and a data card from a run's files: `just report run=R`.
[no-exit-message]
report *settings:
    @python -m oct_jax.evaluate report "$@"

# Explain scans: `just explain scan.png target=CNV`; `just explain --help` lists the settings.
[no-exit-message]
explain *words:
    @python -m oct_jax.explain "$@"

# Test a model's explanations; scans are explained as "unverified" until the report is passed.
[no-exit-message]
explain-report *settings:
    @python -m oct_jax.explain report "$@"

# Write a model as ONNX files for others: `just export run=runs/mine`; `just export verify FOLDER`.
[no-exit-message]
export *words:
    @python -m oct_jax.export "$@"

# Write a page that answers scans in a browser, offline: `just viewer model=starter`.
[no-exit-message]
viewer *settings:
    @python -m oct_jax.export viewer "$@"

# Look for leaks, duplicates, damaged files and shortcuts in a folder of scans: `just audit ROOT`.
[no-exit-message]
audit *settings:
    @python -m oct_jax.data audit "$@"

# Build the records of a data set once, or its training cache: `just prepare ROOT out=FOLDER`.
[no-exit-message]
prepare *settings:
    @python -m oct_jax.data prepare "$@"

# Make the starter model from $OCT_DATA and $OCT_WEIGHTS: `just starter elsewhere=../shared/data`.
starter *settings:
    @python experiments/starter.py "$@"

# Compare backbones: size, speed, memory, accuracy; `quick=true` on synthetic scans in minutes.
[no-exit-message]
backbones *settings:
    @python experiments/backbones.py "$@"

# Lint, format, types, import direction.
check:
    ruff check . && ruff format --check . && ty check && pytest -q tests/test_imports.py

# Run the tests on all cores.
test *options:
    pytest -n auto --dist loadgroup "$@"

# Build the book into build/docs; a warning is an error.
docs:
    @uv run --quiet --group docs sphinx-build -q -W --keep-going -b html docs build/docs
    @echo "build/docs/index.html"
