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
# # The degradation problem, and its reversal
#
# Figures 1 and 6 and Table 6 of He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), from the
# records in `results/runs/`. `make figures` runs this file; it also opens as a notebook (`jupytext --to ipynb`).

# %%
from degradation.report import draw as figures
from degradation.report import table as analysis

results = analysis.find_results()
studies = dict(analysis.studies(results))
list(studies)

# %% [markdown]
# ## Fig. 1: a deeper plain network has higher training error
#
# Training error is the running error over the last rows' mini-batches (augmented images, training-mode BN); test error
# is measured in eval mode. Both are drawn at every recorded iteration, the mean over seeds with its range as a band.

# %%
for study, runs in studies.items():
    table = analysis.curves(runs)
    plain = sorted(table.loc[table["network"] == "plain", "depth"].unique())
    if {20, 56} <= set(plain):
        figure = figures.draw_figure1(table, runs)
        figures.save(figure, results / "figures" / analysis.study_folder(study), "fig1")

# %% [markdown]
# ## Fig. 6: plain networks degrade with depth, residual networks do not

# %%
for study, runs in studies.items():
    folder = results / "figures" / analysis.study_folder(study)
    figures.save(figures.draw_figure6(analysis.curves(runs), runs), folder, "fig6")
    if runs["depth"].nunique() > 1:
        figures.save(figures.draw_error_by_depth(runs), folder, "error_by_depth")

# %% [markdown]
# ## Table 6: test error beside the paper's

# %%
for study, runs in studies.items():
    folder = results / "tables" / analysis.study_folder(study)
    figures.save_table(analysis.table6(runs), folder, "table6")
    figures.save_table(analysis.error_by_depth(runs), folder, "error_by_depth")
    figures.save_table(analysis.paired_differences(runs), folder, "paired_differences")
