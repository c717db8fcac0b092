"""Train one variant, or sweep over many with -m; the same as `attnlab train`. Start with: python train.py --help"""

from attnlab.main_job import main

if __name__ == "__main__":
    main()
