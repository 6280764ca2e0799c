#!/usr/bin/env bash
# Run examples/tour.ipynb top to bottom with the embedded model and store what it shows.
set -euo pipefail
cd "$(dirname "$0")/../examples"
python -m nbconvert --to notebook --execute --inplace --ClearMetadataPreprocessor.enabled=True \
  --ClearMetadataPreprocessor.clear_notebook_metadata=False --ClearMetadataPreprocessor.preserve_cell_metadata_mask='[("tags",)]' tour.ipynb
