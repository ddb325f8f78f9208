# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Layer responses (Fig. 7)
#
# The standard deviation of every 3x3 layer's output, after BN and before ReLU or addition, in eval mode on the test
# set: pooled exactly over images, positions and channels. From the records in `results/runs/`.

# %%
from degradation.report import draw as figures
from degradation.report import table as analysis

results = analysis.find_results()
studies = dict(analysis.studies(results))
list(studies)

# %%
for study, runs in studies.items():
    figure = figures.draw_figure7(analysis.responses(runs), runs)
    figures.save(figure, results / "figures" / analysis.study_folder(study), "fig7")
