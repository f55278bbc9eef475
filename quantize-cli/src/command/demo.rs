pub(super) fn run(_: &crate::args::DemoArgs) -> anyhow::Result<crate::report::Answer> {
    anyhow::bail!("")
}
