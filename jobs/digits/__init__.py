"""Images: is a handwritten digit above four? A small example of files as rows.

1,797 pictures of 8 x 8 pixels, which scikit-learn ships, written as PGM files. Each file is a row
of a manifest with its SHA-256; one that is cut goes to quarantine. From there it is the reference
workload's way: features, two versions, a canary on replayed requests.

heliostat submit --recipe jobs.digits:small -- jobs/pipeline.py
"""

from jobs.digits.recipes import small as small
