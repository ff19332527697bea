"""Speed across commits; run with `asv run` in asv_benchmarks/."""
