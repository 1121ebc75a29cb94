import sys

from r1mega.doctor.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
