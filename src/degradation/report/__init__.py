"""Records -> one table -> statistics, verdicts, figures, pages. Nothing here trains, or imports torch.

table: a row per finished run, and what belongs together. statistics: one number per seed. verdicts: those numbers
against the claims in conf/experiment. draw: the style, panels, and the paper's figures; studies, imagenet, forest,
diagram: the others. figures: all of them by name (a new one is added there). compare: a user's own runs beside the
published ones. pages: gallery.md (README.md of the published evidence) and claims.md.
"""
