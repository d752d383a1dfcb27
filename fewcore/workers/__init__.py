"""Several workers make the cells of a pipeline: `fewcore run --jobs`."""
