//! The keys against the published traces of a handshake (RFC 8448, 3).

use super::super::keys::{Direction, Kind, Material};
use super::super::secret::Secret;
use super::support::AES_1_3;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn material(secret: &str) -> Material {
    Material::of_secret(AES_1_3.cipher, Secret::copy_of(&bytes(secret)), 0)
}

const SERVER: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const CLIENT: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";

#[test]
fn keys_and_ivs_follow_from_the_secrets_as_published() {
    let server = (bytes("9f02283b6c9c07efc26bb9f2ac92e356"), bytes("cf782b88dd83549aadf1e984"));
    let client = (bytes("17422dda596ed5d9acd890e3c63f5051"), bytes("5b78923dee08579033e523d9"));
    assert!(material(SERVER).agrees(AES_1_3, &server.0, &server.1));
    assert!(material(CLIENT).agrees(AES_1_3, &client.0, &client.1));
    assert!(!material(CLIENT).agrees(AES_1_3, &server.0, &client.1), "another key is told apart");
    assert!(!material(CLIENT).agrees(AES_1_3, &client.0, &server.1), "another IV is told apart");
}

#[test]
fn a_record_is_sealed_and_opened_as_published() {
    let published = bytes(
        "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 \
         a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4",
    );
    let data: Vec<u8> = (0..50).collect();
    let mut record = vec![0; published.len()];
    let mut sending = Direction::new(AES_1_3, material(CLIENT));
    assert_eq!(sending.seal(Kind::Data, [&data[..20], &data[20..]], &mut record), Ok(published.len()));
    assert_eq!(record, published);
    let mut receiving = Direction::new(AES_1_3, material(CLIENT));
    let (kind, content) = receiving.open(&mut record).unwrap();
    assert_eq!((kind, &record[content]), (Kind::Data, &data[..]));
}
