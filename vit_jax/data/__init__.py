"""From images on disk or in memory to batches of uint8 arrays: sources, transforms and the step-indexed pipeline."""
