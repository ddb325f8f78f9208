"""The degradation problem, as a suite: the map is completed when every wing stands."""
