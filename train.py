"""Train one variant, or sweep over many with -m; the same as `attnlab train`. Start with: python train.py --help"""

from attnlab.cli.train import main

if __name__ == "__main__":
    main()
