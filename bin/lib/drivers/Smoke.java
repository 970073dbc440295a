// pgjdbc: statements prepared by the server (from the fifth execution on), batches, COPY, a cursor, an error, TLS.
import java.io.StringReader;
import java.net.URI;
import java.nio.file.*;
import java.sql.*;
import java.util.Properties;
import org.postgresql.PGConnection;

public class Smoke {
    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0) {
            through();
            return;
        }
        for (String mode : new String[] {"disable", "verify-full"}) smoke(mode);
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new IllegalStateException(what);
    }

    // One connection is idle, one in a transaction, while the primary dies (see smoke.py).
    static void through() throws Exception {
        Path ready = Path.of(System.getenv("READY"));
        try (Connection idle = connect("disable"); Connection busy = connect("disable");
                PreparedStatement add = idle.prepareStatement("select ? + 1")) {
            add.unwrap(org.postgresql.PGStatement.class).setPrepareThreshold(1);
            add.setInt(1, 1);
            for (int number = 0; number < 3; number++) add.executeQuery();
            busy.setAutoCommit(false);
            busy.createStatement().execute("insert into held (driver) values ('pgjdbc, lost')");
            Files.createFile(ready.resolve("pgjdbc"));
            while (!Files.exists(ready.resolve("over"))) Thread.sleep(50);
            ResultSet row = add.executeQuery();
            check(row.next() && row.getInt(1) == 2, "sum");
            try {
                busy.createStatement().executeQuery("select 1");
                check(false, "the lost transaction went on");
            } catch (SQLException error) {
                check("40001".equals(error.getSQLState()), error.getSQLState());
                busy.rollback();
            }
            busy.createStatement().execute("insert into held (driver) values ('pgjdbc')");
            busy.commit();
        }
    }

    static Connection connect(String tls) throws Exception {
        URI url = URI.create(System.getenv("DATABASE_URL"));
        String[] login = url.getUserInfo().split(":", 2);
        Properties properties = new Properties();
        properties.setProperty("user", login[0]);
        properties.setProperty("password", login[1]);
        properties.setProperty("sslmode", tls);
        properties.setProperty("sslrootcert", System.getenv("CA"));
        String at = "jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath();
        return DriverManager.getConnection(at, properties);
    }

    static void smoke(String tls) throws Exception {
        try (Connection db = connect(tls)) {
            try (PreparedStatement add = db.prepareStatement("select ? + 1")) {
                for (int number = 0; number < 12; number++) {
                    add.setInt(1, number);
                    ResultSet row = add.executeQuery();
                    check(row.next() && row.getInt(1) == number + 1, "sum");
                }
            }
            db.setAutoCommit(false);
            db.createStatement().execute("create table jdbc_t (id int)");
            try (PreparedStatement insert = db.prepareStatement("insert into jdbc_t values (?)")) {
                for (int number = 0; number < 300; number++) { insert.setInt(1, number); insert.addBatch(); }
                check(insert.executeBatch().length == 300, "batch");
            }
            long copied = db.unwrap(PGConnection.class).getCopyAPI().copyIn("copy jdbc_t from stdin", new StringReader("1\n2\n"));
            check(copied == 2, "copy");
            Statement cursor = db.createStatement();
            cursor.setFetchSize(50);
            ResultSet rows = cursor.executeQuery("select id from jdbc_t");
            int count = 0;
            while (rows.next()) count++;
            check(count == 302, "rows " + count);
            db.rollback();
            db.setAutoCommit(true);
            try {
                db.createStatement().executeQuery("select 1/0");
                check(false, "no error");
            } catch (SQLException error) {
                check("22012".equals(error.getSQLState()), error.getSQLState());
            }
            Statement slow = db.createStatement();
            slow.setQueryTimeout(1);
            try {
                slow.executeQuery("select pg_sleep(20)");
                check(false, "no timeout");
            } catch (SQLException error) {
                check("57014".equals(error.getSQLState()), error.getSQLState());
            }
        }
    }
}
