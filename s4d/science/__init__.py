"""The claims of S4D put to the test on generated faces: arms, data, runs, and what came out."""
