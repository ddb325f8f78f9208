"""What is measured of a network: pure functions of a network and views of images."""
