"""``make bench-s3``: a volume beside the programs that one would take instead, on one S3 server; docs/benchmarks.md."""
