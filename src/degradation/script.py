"""What the scripts in experiments/ import before all else, for its effect: a signal is answered from then on."""

from degradation.ending import prepare_script

prepare_script()
