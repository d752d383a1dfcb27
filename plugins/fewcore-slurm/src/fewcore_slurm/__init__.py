"""The cells of fewcore's pipelines on a Slurm cluster, through submitit."""
