"""From a config to a trained checkpoint: configuration, optimizers, sharding, metrics and the one loop."""
