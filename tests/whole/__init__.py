"""The library as a whole: models from input to output, the README, how the packages lie."""
