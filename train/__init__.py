"""The training program of unirank_jax: one command per module, `python -m train.X --help`.

It imports `unirank_jax`; nothing there imports it. Configurations are Python files in `configs/`.
"""
