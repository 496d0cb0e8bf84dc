"""Generated faces: parametric people and expressions, written as real files in the layouts of real data sets.

A sample is a person (`identity`), a scene (`scene`), and an expression given as facial action units (`action_units`),
still or played over time (`dynamics`); `render` draws it. Units after EMFACS, optional ones in brackets:

| class     | action units                 | over time                                              |
|-----------|------------------------------|--------------------------------------------------------|
| neutral   | none                         | speech and blinks on a resting face that may mislead   |
| happiness | 6 + 12 (25)                  | slow onset, stays, small bounce                        |
| sadness   | 1 + 4 + 15 (17)              | slow onset, stays, the head droops                     |
| surprise  | 1 + 2 + 5 + 26 (25)          | sudden and brief, the head jerks up                    |
| fear      | 1 + 2 + 4 + 5 + 7 + 20 + 26 (25) | medium onset, stays, trembling                     |
| disgust   | 9 + 15 + 16 (10, 17)         | quick and brief, the head recoils and turns away       |
| anger     | 4 + 5 + 7 + 23 (17, 24)      | builds up over half of the clip, the head leans in     |

Written below the output folder: `voxceleb2/` (unlabelled H.264 clips), `affectnet/` (JPEG files and list files with
paths relative to that folder), `dfew/` (frame folders and five folds) and `contact_sheet.png`. People are split by
number into five groups: group 1 is the image test set and the test part of fold 1, and no pre-training clip shows
it; group K is the test part of fold K. The two labelled sets carry the person of each sample in `identities.csv`.
"""

from s4d.synth.generate import SynthReport, synthesize

__all__ = ["SynthReport", "synthesize"]
