"""What a round costs, fitted to measured workloads, and carried to more nodes than there is a machine for.

`python -m benchmarks.scaling --help` says what can be asked; `docs/scaling.md` is what came out.
"""
