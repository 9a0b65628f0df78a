"""A town with exact truth, drawn block by block: for tests, the demo and benchmarks."""
