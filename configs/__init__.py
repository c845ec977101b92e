"""The configs of the paper reproductions; installed as `vit_jax.configs`, so that `--config` takes a shipped name."""
