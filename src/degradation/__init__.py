"""The degradation problem of deep networks (He et al., arXiv 1512.03385), as matched and recorded experiments.

How data travel: a command line becomes a `config.Config` (cli, sweep), which says everything there is to know of a run.
`train.run.train` seeds and builds from it a `net.network.Network` and a `data.resident.BatchStream` (of larger images,
a `data.streamed.StreamedBatches`), fits, measures through `probe`, and writes a `record` under results/runs/. `report`
reads records (and the claims that conf/experiment states): one table of them feeds statistics, verdicts, figures and
pages.

    config    the schema of conf/: Architecture, Data, Protocol, Machine; the identity of a run         (no torch)
    record    the folder of a run: write, seal, skip, resume, load                                      (no torch)
    processes a process for each piece of work of a sweep
    ending    how what was started here ends: signals, unforeseen errors; script: the same for experiments/
    net/      network: every network of the paper from its Architecture; foreign: other code's weights
    data/     images, folders: the sets and their checks; resident, streamed: batches by (seed, iteration), of images
              held on the device or decoded while training
    probe/    views of images; layers (responses, gradients), information, lesions, construct; testing: ten crops
    train/    plan: what runs need and how long they take; run: one run, from config to record; outcome; step:
              schedule and iteration; callbacks; machine; tracking (W&B)
    report/   table, statistics, verdicts; draw, studies, imagenet, forest, diagram, figures; compare, pages (no torch)
    sweep     a list of runs: the plan, the time it takes, a process for each, the closing table
    cli       the command line of experiments/train.py

Imports run one way, and `make lint` checks it: config <- record, net, data <- probe, report <- train <- sweep <- cli.
"""
