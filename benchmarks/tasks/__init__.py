"""Every job on real data: the bundled model beside random weights of the same network and a classical baseline.

    python -m benchmarks.tasks [NAME …] [--model MODEL] [--again]     all jobs, or those named

One file a job, with `measure(models, data) -> rows`. What was measured of the same weights is not measured again
(benchmarks/results/tasks.json), unless --again.
"""
