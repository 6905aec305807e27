"""Speed and memory, measured on synthetic data: `make bench` prints the tables of docs/benchmarks.md."""
