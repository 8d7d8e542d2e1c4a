//! The relay between two generations: it stands at the path of the server's program, see `tests::relay`.

fn main() -> std::io::Result<()> {
    tests::relay::Post::of_this_process()?.play()
}
