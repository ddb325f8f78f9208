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
# # The claims, study by study
#
# Every claim of the paper on CIFAR-10 as a study (`conf/experiment/`), from the records in `results/runs/` (the
# published ones where there are none): its figure,
# and the verdict that its statistic over seeds allows. `make claims` trains what is missing.

# %%
from degradation.report.figures import show

# %% [markdown]
# ## Verdicts

# %%
show("verdicts")

# %% [markdown]
# ## The constructed solution: a trained shallow network, deepened by identity layers

# %%
show("constructed", "constructed_controls")

# %% [markdown]
# ## Signals forward and backward, at initialisation and in training

# %%
show("gradients", "weight_norms", "gradients_in_training", "signals_in_training", "information")

# %% [markdown]
# ## Early convergence, and what the responses are made of

# %%
show("convergence", "fig7_statistics", "response_parts")

# %% [markdown]
# ## One setting at a time: learning rate, length of training, warm-up, shortcut options and strength, normalisation

# %%
show("learning_rate", "longer_training", "warmup", "shortcut_options", "shortcut_strength", "without_bn")

# %% [markdown]
# ## Lesions: blocks of trained networks deleted or swapped

# %%
show("lesions", "lesions_by_block", "lesions_recalibrated")

# %% [markdown]
# ## Is degradation the first steps? Are shortcuts necessary?

# %%
show("first_steps", "first_steps_cures", "without_shortcuts")

# %% [markdown]
# ## What the choices that the paper leaves open change

# %%
show("deviations")
